"""The annotator: a page in the browser over a folder of images, and the HTTP interface behind it."""
