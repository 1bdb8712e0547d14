"""What a notebook shares with the campaign behind its records, or with processes it starts."""
