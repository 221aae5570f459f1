"""How far a restored picture is from the clear one: functions and named protocols."""
