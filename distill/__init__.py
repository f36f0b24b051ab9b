"""What one distillation trial is: faces, a teacher, a student, a method, and how they are evaluated."""
