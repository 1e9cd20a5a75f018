"""A ladder of students: what it names, what runs when, and the table at its end."""
