"""Worker processes: started, supervised, restarted."""
