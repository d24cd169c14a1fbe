"""What people read: the page and the tables of a run, from its metrics and samples, and two runs side by side."""
