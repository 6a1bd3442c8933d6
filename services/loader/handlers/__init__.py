"""The loader's handlers: answer requests, load adapters, and manage where they reside."""
