"""A local web page that classifies images and draws the maps of a FocalNet."""
