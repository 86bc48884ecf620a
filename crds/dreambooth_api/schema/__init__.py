"""How models become the CRD: strict fields, rules between them, lists with keys."""
