"""The builder: a process that fetches adapters and lays them out, and the loader's side of it."""
