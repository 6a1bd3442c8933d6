"""What every route shares: key, caller, scope, body, admission, recording, shapes of errors."""
