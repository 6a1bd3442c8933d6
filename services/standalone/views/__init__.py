"""Terminal output: tables, and live views of a stack and of a job."""
