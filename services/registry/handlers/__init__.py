"""What the registry does when it is told something: exports to judge, adapters to take in."""
