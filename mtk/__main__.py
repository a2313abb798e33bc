from mtk.cli import main

main()
