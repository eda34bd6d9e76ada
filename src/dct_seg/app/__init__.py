"""The annotator: a page in the browser over a folder of pictures, and the HTTP interface that the page uses."""
