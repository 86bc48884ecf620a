"""Images that wait, and the thread that owns the device and makes them."""
