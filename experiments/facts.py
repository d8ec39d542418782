"""stub"""
def markdown(groups, made): return "# Methods\n"
