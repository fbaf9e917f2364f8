"""A local web page that shows the prediction of a model for an image, and the maps of its FocalNet."""
