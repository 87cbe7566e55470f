"""What is stored, a file for each noun: functions that take a store or a transaction first."""
