"""What people see on a terminal: tables, and live views of a stack and of a job."""
