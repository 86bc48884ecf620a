"""Images of the class, for prior preservation (Ruiz et al. 2022, section 3.3)."""
