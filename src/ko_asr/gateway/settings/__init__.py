"""What a gateway is started with, room by room."""
