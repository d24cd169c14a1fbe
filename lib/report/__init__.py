"""What people read: one table from all metrics."""
