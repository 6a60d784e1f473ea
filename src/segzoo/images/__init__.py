"""Reading, resizing and drawing pictures, and reading masks."""
