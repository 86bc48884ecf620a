"""tiny-sd: a small text-to-image model, drawn for, trained and scored from scratch on a CPU."""
