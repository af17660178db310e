"""Image processors by task, for images of any kind; `base` says what they take."""
