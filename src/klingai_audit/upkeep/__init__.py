"""What acts on a log over time: drill, recover."""
