"""Networks on whole pictures: restoring, folders of them, judging them."""
