/** Exit codes of the command line, a contract with scripts. */
export enum ExitCode {
  Done = 0,
  /** A budget or a check failed; the work itself went through. */
  CheckFailed = 1,
  /** Bad usage or bad input: the user's to fix. */
  BadInput = 2,
  /** An error of this program. */
  Internal = 3,
  /** Ended by Ctrl-C, as shells report it: 128 + SIGINT. */
  Interrupted = 130,
}
