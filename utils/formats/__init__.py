"""Label formats: readers and writers around one set of types; to convert is to read and to write."""
