"""What people do on a link."""
