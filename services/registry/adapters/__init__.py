"""The registry's store in Postgres: what `ports` promises holds for the methods that routes use, too."""
