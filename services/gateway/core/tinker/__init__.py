"""The Tinker API as values: ids, paths, codecs, and the operations of each request. No wire, no clock."""
