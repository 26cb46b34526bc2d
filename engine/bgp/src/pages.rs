//! A vector that grows by pages, so that growing never copies and holds no more than one page that is not in use.

use alloc::vec::Vec;

/// Items of a page.
const PAGE: usize = 1024;

/// A vector whose items stay where they are.
#[derive(Debug)]
pub(crate) struct Pages<T> {
    pages: Vec<Vec<T>>,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self { pages: Vec::new() }
    }
}

impl<T> Pages<T> {
    pub(crate) fn len(&self) -> usize {
        self.pages.last().map_or(0, |last| (self.pages.len() - 1) * PAGE + last.len())
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.pages.get(index as usize / PAGE)?.get(index as usize % PAGE)
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.pages.get_mut(index as usize / PAGE)?.get_mut(index as usize % PAGE)
    }

    pub(crate) fn push(&mut self, item: T) {
        match self.pages.last_mut() {
            Some(last) if last.len() < PAGE => last.push(item),
            first => {
                // The first page grows, so that a small table is small.
                let mut page = if first.is_some() { Vec::with_capacity(PAGE) } else { Vec::new() };
                page.push(item);
                self.pages.push(page);
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flatten()
    }

    /// Items from an index on, with their indices.
    pub(crate) fn iter_from(&self, index: u32) -> impl Iterator<Item = (u32, &T)> {
        let (page, at) = (index as usize / PAGE, index as usize % PAGE);
        let pages = self.pages.get(page..).unwrap_or_default();
        let skip = if pages.is_empty() { 0 } else { at };
        (index..).zip(pages.iter().flatten().skip(skip))
    }
}

impl<T: Default> Pages<T> {
    /// An item, made with all before it if it is not there.
    pub(crate) fn make(&mut self, index: u32) -> &mut T {
        while self.len() <= index as usize {
            self.push(T::default());
        }
        // It was made just now.
        &mut self.pages[index as usize / PAGE][index as usize % PAGE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_where_they_were_put() {
        let mut pages = Pages::default();
        for n in 0..3000u32 {
            assert_eq!(pages.len(), n as usize);
            pages.push(n);
        }
        assert_eq!(pages.iter().copied().collect::<Vec<u32>>(), (0..3000).collect::<Vec<u32>>());
        for from in [0, 1, 1023, 1024, 2999, 3000, 9000] {
            let rest: Vec<u32> = pages.iter_from(from).map(|(i, n)| (i == *n).then_some(*n).unwrap()).collect();
            assert_eq!(rest, (from..3000).collect::<Vec<u32>>());
        }
        assert_eq!((pages.get(1024), pages.get(3000)), (Some(&1024), None));
        *pages.get_mut(7).unwrap() = 70;
        assert_eq!(pages.get(7), Some(&70));
        *pages.make(5000) = 1;
        assert_eq!((pages.len(), pages.get(4999), pages.get(5000)), (5001, Some(&0), Some(&1)));
    }
}
