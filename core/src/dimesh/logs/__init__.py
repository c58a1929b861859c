"""The log of a process: lines for people or programs that no value can break, forge or fill, and that contain no secret."""
