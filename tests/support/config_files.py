"""Files of Python configs, and their values."""


def write(folder, **files):
    """Writes ``name.py`` for each argument and gives the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def use(value):
    """Takes every value out of a config; one that could not be read raises its error."""
    if isinstance(value, dict):
        for item in value.values():
            use(item)
    elif isinstance(value, list | tuple):
        for item in value:
            use(item)
