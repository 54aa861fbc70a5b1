//! The span that a task works for.

use crate::Context;

tokio::task_local! {
    static CURRENT: Context;
}

/// The span that this task works for, if anybody traces it.
#[must_use]
pub fn current() -> Option<Context> {
    CURRENT.try_with(|context| *context).ok()
}

/// Does `work` for a span.
pub async fn scope<T>(context: Option<Context>, work: impl Future<Output = T>) -> T {
    match context {
        Some(context) => CURRENT.scope(context, work).await,
        None => work.await,
    }
}

#[cfg(test)]
mod tests {
    use super::{current, scope};
    use crate::Context;

    #[tokio::test]
    async fn work_knows_what_it_is_done_for_and_nothing_else_does() {
        let context = Context::root();
        assert_eq!(scope(Some(context), async { current() }).await, Some(context));
        assert_eq!(scope(None, async { current() }).await, None);
        assert_eq!(current(), None);
    }
}
