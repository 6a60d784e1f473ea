"""Pictures: reading, resizing, drawing."""
