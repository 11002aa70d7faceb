"""What is learned: data and streams of tasks."""
