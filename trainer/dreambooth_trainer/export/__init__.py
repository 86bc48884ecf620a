"""The trained model in the formats that other tools load."""
