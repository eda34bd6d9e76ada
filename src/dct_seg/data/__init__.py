"""Pictures and masks in, batches out."""
