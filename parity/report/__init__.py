"""Reports beyond the JSON of a verdict (HTML, JUnit). Not built yet."""
