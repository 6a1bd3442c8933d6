"""The Tinker API as values: ids and paths, codecs, and what each request means to MinT. No wire, no clock."""
