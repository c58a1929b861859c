"""What files and bounded buffers need once: locks between processes, SQLite files, bounded room."""
