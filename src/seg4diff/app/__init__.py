"""The page `seg4diff app`: layout and state over `Model`. Only this room imports gradio."""
