"""Files and folders that one peer sends to another, on streams of the service "files/1"."""
