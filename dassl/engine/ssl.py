from dassl.utils.left_out import left_out

raise left_out(__name__)
