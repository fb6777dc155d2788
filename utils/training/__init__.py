"""What a training needs beside its optimizer: learning rate schedules, averaged weights, and when to stop."""
