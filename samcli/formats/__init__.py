"""Pure functions between records and files; every file is written atomically."""
