from keeper.main import main

main()
