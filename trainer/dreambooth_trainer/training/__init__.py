"""The LightningModule, its optimizer, and what happens between steps."""
