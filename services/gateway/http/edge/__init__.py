"""Shared by all routes: key, caller, scope, body, admission, recording, shapes of errors."""
