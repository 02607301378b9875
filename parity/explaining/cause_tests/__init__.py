"""What each kind of module gives under each mistake known of it; one file per family."""
