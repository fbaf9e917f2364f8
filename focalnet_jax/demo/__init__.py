"""A page in the browser that says what a picture shows and where a FocalNet looks."""
