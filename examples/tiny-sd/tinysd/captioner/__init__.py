"""A small vision-language model of Ministral 3's architecture, in its published layout."""
